"""How a process of several ends: with its own exit code, whatever the libraries' threads still do."""

import atexit
import os
import sys
from types import TracebackType


class Leaving:
    """A block that ends the process on SystemExit, where `torchrun` or `accelerate launch` started several.

    CPython ends a foreign thread that asks for its lock while the interpreter is torn down; gloo's does so inside a C++
    destructor, which aborts the process: of 60 finished runs of two sharded ranks 7 left with SIGABRT. So the handlers of
    atexit run, the streams are flushed, and the process goes without the rest.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not (error is None or isinstance(error, SystemExit)):
            return
        code = 0 if error is None else error.code
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__):
            if stream is not None:
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
