"""Owns rendering without a GPU: a lean MuJoCo renderer and pixel coordinates of world points."""

from typing import Any

import numpy as np
from PIL import Image

from xvla.sim.scene import Scene

SUPERSAMPLE = 3  # smooth edges: +1 dB and a fifth fewer bytes in h264 for twice the time
_HIDDEN = ("pedestal",)  # a fifth of all triangles, and hardly ever in sight


class ViewRenderer:
    """Renders a domain's views of a scene as uint8 [size, size, 3].

    Rendered SUPERSAMPLE times larger and box-filtered; no multisampling, shadows, reflections,
    skybox or haze; visual geoms only. Software rendering then costs 15-25 ms a view, several
    times less than robosuite's own camera observations.
    """

    def __init__(self, scene: Scene, size: int) -> None:
        """Make the GL context; `size` in pixels."""
        import mujoco

        side = size * SUPERSAMPLE
        model = scene.model
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = side
        for index in range(model.ngeom):
            if any(part in model.geom(index).name for part in _HIDDEN):
                model.geom_group[index] = 5
        self._data = scene.data
        self._renderer = mujoco.Renderer(model, side, side)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 0
        self._options.geomgroup[1] = 1
        flags = mujoco.mjtRndFlag
        self._off = [int(flags.mjRND_SHADOW), int(flags.mjRND_REFLECTION)]
        self._off += [int(flags.mjRND_SKYBOX), int(flags.mjRND_HAZE)]
        self._cameras = _cameras(scene, mujoco)
        self.size = size

    def frame(self, view: str) -> np.ndarray:
        """Return the current image of one view, uint8 [size, size, 3]."""
        self._aim(view)
        large = Image.fromarray(self._renderer.render())
        return np.asarray(large.reduce(SUPERSAMPLE)).copy()

    def _aim(self, view: str) -> None:
        self._renderer.update_scene(
            self._data, camera=self._cameras[view], scene_option=self._options
        )
        for flag in self._off:
            self._renderer.scene.flags[flag] = 0

    def project(self, view: str, points: np.ndarray) -> np.ndarray:
        """Return [n, 2] image x, y in 0..1 (top left is 0, 0) of world points [n, 3] in m.

        Points outside the picture lie outside 0..1; points behind the camera are NaN.
        """
        self._aim(view)
        eyes = self._renderer.scene.camera  # a stereo pair: their mean is the camera itself
        position = (eyes[0].pos + eyes[1].pos) / 2
        forward, up = np.array(eyes[0].forward), np.array(eyes[0].up)
        offset = np.asarray(points) - position
        depth = offset @ forward
        top = eyes[0].frustum_top / eyes[0].frustum_near
        with np.errstate(divide="ignore", invalid="ignore"):
            x = offset @ np.cross(forward, up) / (depth * top)
            y = offset @ up / (depth * top)
        pixels = np.stack([(1 + x) / 2, (1 - y) / 2], axis=-1)
        pixels[depth <= 0] = np.nan
        return pixels

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()


def _cameras(scene: Scene, mujoco: Any) -> dict[str, Any]:
    """Return view key -> MuJoCo camera (a free one for the main view, a name for a wrist)."""
    wanted = scene.domain.camera
    main = mujoco.MjvCamera()
    main.type = mujoco.mjtCamera.mjCAMERA_FREE
    main.azimuth, main.elevation = wanted.azimuth, wanted.elevation
    distance, lookat = scene.task.framing or (wanted.distance, wanted.lookat)
    main.distance, main.lookat[:] = distance, lookat
    first, *wrists = scene.domain.views
    return {first: main, **{view: f"robot{i}_eye_in_hand" for i, view in enumerate(wrists)}}
