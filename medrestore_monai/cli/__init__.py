"""The ``medrestore`` command: parse, call, print; the only place that knows the names of options.

- ``main``: the command and its short subcommands; ``restore``, ``audit``, ``degrade``, ``demo``, ``bundles`` the rest.
- ``options``: arguments that several subcommands share; ``choice``: the bundle that is taken if none is named.
- ``modes``: how a command prints, ``--json`` and the like; ``output``, ``studies``: what it prints, and exit codes.
- ``doctor``: what this installation can do; ``documents``: what a bundle is, for programs.
"""

from medrestore_monai.cli.main import app

__all__ = ["app"]
