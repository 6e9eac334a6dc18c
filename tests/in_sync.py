"""Fails when the library, the notebooks' cleanliness or README.md are not what the notebooks give: run `make export readme`."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def state() -> dict[str, str]:
    files = [*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("recsys_lab/**/*.py"), ROOT / "README.md"]
    return {str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


before = state()
for command in (["nbdev_export"], ["nbdev_clean"], ["recsys-lab", "readme"]):
    subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, check=True)
after = state()
changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
outputs = [
    f.name for f in ROOT.glob("nbs/*.ipynb") if any(c.get("outputs") for c in json.loads(f.read_text())["cells"])
]
if changed or outputs:
    sys.exit(f"not in sync: {', '.join(changed) or 'nothing'}; notebooks with outputs: {', '.join(outputs) or 'none'}")
print(f"{len(before)} files are in sync with the notebooks")
