"""Programs that may not import some packages, installed or not."""


def blocking(*packages: str) -> str:
    """The begin of such a program."""
    return f"""
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {packages!r}:
            raise AssertionError(f"{{name}} is imported")
sys.meta_path.insert(0, Blocked())
"""
