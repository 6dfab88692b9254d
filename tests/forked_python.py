"""``python -c`` in processes of their own, without importing PyTorch and MONAI in each.

A server has imported them, and forks a process for each call: from there on it is as if Python had been started.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_SERVER = """
import json, os, sys
import ignite.engine, monai.bundle, torch._dynamo, torch.utils.tensorboard
while (request := sys.stdin.readline()):
    pid = os.fork()
    if not pid:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    sys.exit()
code, argv, folder, files = json.loads(request)
for number, file in enumerate(files):
    os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
os.chdir(folder)
sys.argv[1:] = argv
exec(code)
"""

#: Code that runs ``python -m monai.bundle`` with the arguments.
MONAI_BUNDLE = "import runpy; runpy.run_module('monai.bundle', run_name='__main__')"


class ForkedPython:
    """Runs code in processes that a server forks.

    Args:
        options: of Python, such as ``-S``.
        environment: its whole environment.
    """

    def __init__(self, options, environment):
        self._command, self._environment = [sys.executable, *options, "-c"], environment
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([*self._command, _SERVER], env=environment, text=True, **pipes)

    def run_fresh(self, code, *argv, folder, seconds=600):
        """Run code by ``python -c`` in ``folder``, without the server."""
        command = [*self._command, code, *map(str, argv)]
        how = {"env": self._environment, "capture_output": True, "text": True, "timeout": seconds}
        return subprocess.run(command, cwd=folder, check=False, **how)

    def run(self, code, *argv, folder, seconds=600):
        """Run code as ``python -c`` in ``folder`` would."""
        with tempfile.TemporaryDirectory() as place:
            files = [os.devnull, *(os.path.join(place, name) for name in ("stdout", "stderr"))]
            request = [code, [str(word) for word in argv], str(folder), files]
            print(json.dumps(request), file=self._server.stdin, flush=True)
            if not select.select([self._server.stdout], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(code, seconds)
            status = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(request, status, *(Path(file).read_text() for file in files[1:]))

    def close(self):
        """End the server."""
        self._server.stdin.close()
        self._server.wait()


@cache
def forked_python():
    """The one server with this installation, which finds the shipped bundles."""
    environment = {name: value for name, value in os.environ.items() if name != "MEDRESTORE_BUNDLES"}
    return ForkedPython([], {**environment, "OMP_NUM_THREADS": "1"})
