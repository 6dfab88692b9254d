"""``python -m medrestore_monai``: the ``medrestore`` command."""

from medrestore_monai.cli import app

if __name__ == "__main__":
    app()
