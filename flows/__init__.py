"""One Prefect flow per stage: each loads artifacts, calls ``pipeline``, saves artifacts. Importing this sets the environment."""

from flows import environment

environment.apply(environment.find_root())
