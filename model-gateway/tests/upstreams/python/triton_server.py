"""Triton with one model, without PyTriton around it: triton_server.py ARTIFACT HTTP_PORT GRPC_PORT, in a folder of its own.

PyTriton brings the server's program, its Python backend, and a stub for each version of Python. A stub is linked to the
shared library of Python, which must be that of the interpreter whose packages it loads.
"""

import ctypes
import os
import pathlib
import sys
import sysconfig

import pytriton

CONFIG = """
name: "fraud"
backend: "python"
input [{ name: "X" data_type: TYPE_FP32 dims: [-1, 5] }]
output [
  { name: "label" data_type: TYPE_INT64 dims: [-1] },
  { name: "probabilities" data_type: TYPE_FP32 dims: [-1, 2] }
]
"""

artifact, http, grpc = sys.argv[1:]
here = pathlib.Path(__file__).resolve().parent
version = f"{sys.version_info.major}.{sys.version_info.minor}"
libraries = sysconfig.get_config_var("LIBDIR")
try:
    ctypes.CDLL(os.path.join(libraries, f"libpython{version}.so.1.0"))
except OSError as error:
    sys.exit(f"Triton's Python backend needs the shared library of Python: apt-get install libpython{version} ({error})")

parts = pathlib.Path(pytriton.__file__).parent / "tritonserver"
backend = pathlib.Path("backends/python")
backend.mkdir(parents=True)
stub = parts / "python_backend_stubs" / version / "triton_python_backend_stub"
for part in [stub, *(part for part in (parts / "backends/python").iterdir() if part.is_file())]:
    (backend / part.name).symlink_to(part)
model = pathlib.Path("models/fraud/3")
model.mkdir(parents=True)
(model.parent / "config.pbtxt").write_text(CONFIG)
(model / "model.py").symlink_to(here / "triton_model.py")
(model / "model.onnx").symlink_to(artifact)

environment = dict(
    os.environ,
    LD_LIBRARY_PATH=libraries,
    # By the first interpreter found here the stub finds the packages.
    PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
    ONDOL_SCORED=str(here),
)
arguments = [
    "--model-repository=models",
    "--backend-directory=backends",
    "--http-address=127.0.0.1",
    f"--http-port={http}",
    "--grpc-address=127.0.0.1",
    f"--grpc-port={grpc}",
    "--allow-metrics=false",
    "--exit-timeout-secs=1",
]
program = parts / "bin/tritonserver"
os.execve(program, [str(program), *arguments], environment)
