"""The commands of `recsys-lab`, one module a group."""
