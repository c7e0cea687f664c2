"""The packages are found; all else stands in setup.cfg. The folders with recipes lie at the top of a clone."""

from setuptools import find_packages, setup

RECIPES = {f"slivit.recipes.{stage}": stage for stage in ("pretrain", "finetune", "evaluate", "sweep", "study")}

setup(packages=[*find_packages(include=["slivit", "slivit.*"]), *RECIPES], package_dir=RECIPES)
