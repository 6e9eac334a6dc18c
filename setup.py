"""Packaging: everything is read from settings.ini, which nbdev reads too; a wheel brings the chapters, with what they read."""

import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
LAB_FILES = (  # as recsys_lab.labs.LAB_FILES
    "nbs/[0-9][0-9]*_*.ipynb",
    "reports/published/ledger.csv",
    "benchmarks/results/full_size.json",
    "benchmarks/queries.csv",
)
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib = cfg["lib_name"]
extras = {name: cfg[f"{name}_requirements"].split() for name in cfg["extras"].split()}
extras["all"] = sorted({word for name, words in extras.items() if name != "dev" for word in words})


class BuildWithLab(build_py):
    """Copies the files of a lab into the package; an editable install has them in the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in LAB_FILES:
            for path in ROOT.glob(pattern):
                target = Path(self.build_lib) / lib / "lab" / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(
    name=lib,
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Changes": cfg["git_url"] + "/blob/main/CHANGELOG.md"},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: {version}" for version in ("3", "3 :: Only", *cfg["pythons"].split())),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=[lib, lib + ".*"]),
    package_data={lib: ["py.typed", "layouts/*.toml"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{lib}={lib}._modidx:d"],
        f"{lib}.models": cfg["models"].split(),
    },
    cmdclass={"build_py": BuildWithLab},
    zip_safe=False,
)
