"""Started by executors of version 0.1 that still run; goes with 0.3. See jobs.local.forkserver."""

import runpy

if __name__ == "__main__":
    runpy.run_module("jobs.local.forkserver", run_name="__main__", alter_sys=True)
