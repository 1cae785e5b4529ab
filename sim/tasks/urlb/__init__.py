"""The bodies of URLB (arXiv 2110.15191) on dm_control's models, one domain a file."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
