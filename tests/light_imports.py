"""Which modules a piece of code leaves imported, seen in a process of its own."""

import subprocess
import sys


def assert_imports_none_of(heavy: set[str], code: str) -> None:
    """Run the code: it must end well, say nothing on stderr and import none of the modules."""
    code += f"\nimport sys; sys.exit(', '.join({heavy!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
