"""``medrestore evaluate`` within the process of a test."""

from typer.testing import CliRunner

from medrestore_monai.cli import app


def run(*args, code=0):
    """Run the command with these arguments, expect its exit code, and return its result."""
    result = CliRunner().invoke(app, ["evaluate", *(str(arg) for arg in args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result
