"""Pictures of the simulated scene, with or without OpenGL.

Three back ends draw the same cameras: `egl` and `osmesa` (OpenGL without a display; about 4 ms of one core
for a 64x64 picture in software) and `raycast` (MuJoCo's own ray caster and the OpenGL light equation; needs
nothing but pip, 7 ms for 64x64, growing with the number of pixels). `choose_backend` tries them in this
order, the OpenGL ones in a child process: a broken driver may kill the process that asks it. The answer is
kept for the life of the process; `settle_backend` hands it on to workers that are started later.

OpenGL contexts are made directly, not through `mujoco.Renderer`, so the back end does not depend on MUJOCO_GL
having been set before the first `import mujoco`. Where the user did set it to egl or osmesa, that one is
tried alone, because PyOpenGL is then bound to it.

TRAP: software OpenGL (Mesa's llvmpipe) and Triton each bring an LLVM, and loading Triton after it crashes the
process (SIGSEGV, no message); building any torch optimizer loads Triton. Therefore training and rendering
live in separate processes. Where they cannot, `import torch._dynamo` must come before the first
`make_renderer`, or RDT_RENDERER=raycast, which loads no LLVM.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Protocol

import numpy as np

from robot_drivers.sim.scene import import_mujoco

if TYPE_CHECKING:
    import mujoco

GL_BACKENDS = ("egl", "osmesa")
BACKENDS = (*GL_BACKENDS, "raycast")

_APT = {"egl": "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri", "osmesa": "libosmesa6 libgl1"}
_PROBE_TIMEOUT_S = 60
_SPECULAR, _SHININESS = 0.5, 64  # MuJoCo's defaults for a geom without a material (shininess 0.5 * 128)
_PROBE = """
import mujoco
from mujoco.{name} import GLContext
gl = GLContext(8, 8)
gl.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
mujoco.mjr_render(mujoco.MjrRect(0, 0, 8, 8), mujoco.MjvScene(model, 1), context)
context.free()
gl.free()
print("drawn")
"""


class RendererUnavailableError(RuntimeError):
    """A rendering back end was asked for that does not work here."""


class Renderer(Protocol):
    """Draws pictures of one size of one model. `with` closes it."""

    def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """uint8 (height, width, 3), RGB: what `camera` sees of the positions in `data`."""

    def close(self) -> None:
        """Frees what the renderer holds; it draws no more. Closing twice is allowed."""

    def __enter__(self) -> Renderer: ...

    def __exit__(self, *exc: object) -> None: ...


def make_renderer(model: mujoco.MjModel, height: int = 64, width: int = 64, backend: str | None = None) -> Renderer:
    """A renderer for pictures of `height` x `width`, at most 480 x 640, of one model.

    `backend` is one of BACKENDS; without it `choose_backend` decides.
    """
    if backend is None:
        backend = choose_backend()
    _check_name(backend, "backend")
    limit = model.vis.global_
    if not (0 < height <= limit.offheight and 0 < width <= limit.offwidth):
        raise ValueError(f"a picture of {height} x {width} exceeds the buffer of {limit.offheight} x {limit.offwidth}")
    if backend == "raycast":
        return RayCaster(model, height, width)
    try:
        return GLRenderer(model, height, width, backend)
    except Exception as error:  # PyOpenGL raises AttributeErrors on None, ImportErrors, GLErrors, by the weather
        raise RendererUnavailableError(_explain(backend, str(error))) from error


@functools.cache
def choose_backend() -> str:
    """The back end of this process: RDT_RENDERER if set, else the first of BACKENDS that draws."""
    forced = os.environ.get("RDT_RENDERER", "")
    if forced:
        _check_name(forced, "RDT_RENDERER")
        return forced
    bound = os.environ.get("MUJOCO_GL", "").lower()
    for name in (bound,) if bound in GL_BACKENDS else GL_BACKENDS:
        if probe(name) is None:
            return name
    return "raycast"


def settle_backend() -> str:
    """Choose for the processes that this one starts, too; say so when nothing but the ray caster draws."""
    name = choose_backend()
    if name == "raycast" and not os.environ.get("RDT_RENDERER"):
        advice = f"on Debian: apt-get install {_APT['egl']}"
        print(f"OpenGL does not work here, so the slower ray caster draws; {advice}", file=sys.stderr)
    os.environ["RDT_RENDERER"] = name
    return name


def probe(name: str) -> str | None:
    """None if OpenGL back end `name` draws in a child process, else one line that says why not."""
    code = _PROBE.format(name=name)
    environment = {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return _explain(name, f"no answer within {_PROBE_TIMEOUT_S} s")
    if "drawn" in child.stdout:  # a crash while the interpreter ends does not matter
        return None
    lines = child.stderr.strip().splitlines()
    return _explain(name, lines[-1] if lines else f"the process died with status {child.returncode}")


def _check_name(name: str, source: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}: use one of {', '.join(BACKENDS)}")


def _explain(name: str, reason: str) -> str:
    return (
        f"OpenGL through {name} does not work here ({reason}). On Debian: apt-get install {_APT[name]}; or "
        "set RDT_RENDERER=raycast, which needs no OpenGL"
    )


class _CameraRenderer:
    """What the back ends share: sizes, camera names, bringing positions up to date."""

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        self._mujoco = import_mujoco()
        self._model, self._height, self._width = model, height, width

    def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """See `Renderer`."""
        index = self._mujoco.mj_name2id(self._model, self._mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if index < 0:
            known = ", ".join(self._model.camera(i).name for i in range(self._model.ncam))
            raise ValueError(f"the scene has no camera {camera!r}; it has {known}")
        self._mujoco.mj_kinematics(self._model, data)  # after a step, bodies stand where they were before it
        self._mujoco.mj_comPos(self._model, data)
        self._mujoco.mj_camlight(self._model, data)
        return self._draw(data, index)

    def _draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        """See `Renderer`."""

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class GLRenderer(_CameraRenderer):
    """OpenGL in an off-screen buffer, without shadows and reflections."""

    def __init__(self, model: mujoco.MjModel, height: int, width: int, backend: str) -> None:
        super().__init__(model, height, width)
        mujoco = self._mujoco
        # llvmpipe's own threads would fight with the worker processes for the cores; in the calling thread a
        # small picture is also faster (3 ms against 4)
        os.environ.setdefault("LP_NUM_THREADS", "0")
        if backend == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
        self._gl = GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def _draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        if self._gl is None:
            raise RuntimeError("this renderer is closed: make another one")
        mujoco = self._mujoco
        self._gl.make_current()  # another renderer may have drawn since
        self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)
        return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """See `Renderer`."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def __del__(self) -> None:
        if getattr(self, "_gl", None) is not None:
            warnings.warn("an OpenGL renderer was not closed: use `with` or close()", ResourceWarning, stacklevel=2)
            if sys.is_finalizing():
                self._gl._context = None  # its display is gone already: freeing would only print errors
            else:
                self.close()


class RayCaster(_CameraRenderer):
    """One ray a pixel, shaded by OpenGL's equation (Blinn-Phong) for the headlight and the directional
    lights.

    Leaves out textures, transparency and smooth shading of meshes.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        super().__init__(model, height, width)
        if "normal" not in self._mujoco.mj_multiRay.__doc__:
            raise RendererUnavailableError(
                f"the ray caster needs MuJoCo >= 3.5, not {self._mujoco.__version__}: pip install -U mujoco"
            )
        num_rays = height * width
        self._geoms = np.empty(num_rays, np.int32)
        self._distances = np.empty(num_rays)
        self._normals = np.empty(3 * num_rays)
        head = model.vis.headlight
        self._ambient = head.ambient + model.light_ambient.sum(axis=0)  # (3,)
        self._headlight = head.diffuse.astype(np.float64)  # (3,)
        self._highlight = head.specular.astype(np.float64)  # (3,)
        # OpenGL lights vertices, and those of the big table lie outside of every highlight
        self._matt = model.body_weldid[model.geom_bodyid] == 0  # (geoms,)

    def _draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        origin, rotation = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)
        rays = self._directions(float(self._model.cam_fovy[camera])) @ rotation.T  # (rays, 3), unit, world
        self._mujoco.mj_multiRay(
            self._model,
            data,
            origin,
            rays.reshape(-1),
            None,  # all geom groups
            True,  # static geoms too
            -1,  # no body left out
            self._geoms,
            self._distances,
            self._normals,
            len(rays),
            1e3,  # m
        )
        hit = self._geoms >= 0
        normals, rays = self._normals.reshape(-1, 3)[hit], rays[hit]
        facing = np.abs(np.einsum("rc,rc->r", normals, rays))[:, None]
        light = self._ambient + facing * self._headlight  # the headlight sits in the camera
        shine = facing**_SHININESS * self._highlight
        for direction, diffuse, specular in zip(
            data.light_xdir, self._model.light_diffuse, self._model.light_specular, strict=True
        ):
            halfway = -(direction + rays)
            halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
            light += np.maximum(-normals @ direction, 0)[:, None] * diffuse
            shine += np.maximum(np.einsum("rc,rc->r", normals, halfway), 0)[:, None] ** _SHININESS * specular
        shine[self._matt[self._geoms[hit]]] = 0
        image = np.zeros((len(hit), 3))
        image[hit] = self._model.geom_rgba[self._geoms[hit], :3] * light + _SPECULAR * shine
        return (255 * np.clip(image, 0, 1)).astype(np.uint8).reshape(self._height, self._width, 3)

    @functools.lru_cache(maxsize=16)  # noqa: B019 - one entry for each field of view
    def _directions(self, fovy_deg: float) -> np.ndarray:
        """Unit rays (height * width, 3) through the pixels in the camera's frame: x right, y up, -z ahead."""
        half = np.tan(np.deg2rad(fovy_deg) / 2)
        y = half * (1 - (2 * np.arange(self._height) + 1) / self._height)
        x = half * (self._width / self._height) * ((2 * np.arange(self._width) + 1) / self._width - 1)
        rays = np.stack([*np.meshgrid(x, y), np.full((self._height, self._width), -1.0)], axis=-1)
        return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3)
