"""One Prefect flow per stage: it loads artifacts, calls ``pipeline``, saves artifacts. Importing this sets defaults."""

from flows import environment

environment.apply(environment.find_root())
