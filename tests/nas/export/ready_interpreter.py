"""An interpreter that has imported torch and waits: each request runs a script in a child of it, as ``python -I SCRIPT WORDS`` would.

Reads a JSON object a line: command, cwd and env. Answers with one: returncode, stdout and stderr.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import safetensors.torch  # noqa: F401
import torch
import torch.export.pt2_archive  # what torch.export.load would import first


def run(command, env, out, err):
    """The child: never returns."""
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = command[2:]
        runpy.run_path(command[2], run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(command, cwd, env):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if (pid := os.fork()) == 0:
            os.chdir(cwd)
            run(command, env, out.fileno(), err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0), err.seek(0)
        return {"returncode": code, "stdout": out.read(), "stderr": err.read()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
