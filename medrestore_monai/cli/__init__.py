"""The ``medrestore`` command: parse, call, print; the only place that knows the names of options.

- ``main``: the command and its short subcommands; ``restore``, ``audit``, ``degrade``, ``demo``, ``bundles`` the rest.
- ``options``: arguments that several subcommands share; ``output``, ``studies``: what is printed, and exit codes.
- ``doctor``: what this installation can do.
"""

from medrestore_monai.cli.main import app

__all__ = ["app"]
