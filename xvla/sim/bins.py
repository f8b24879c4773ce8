"""Owns the pick-and-place environment: one can, a tray, and a box of four compartments."""

from typing import Any

import numpy as np
from robosuite.environments.manipulation.pick_place import PickPlace
from robosuite.models.objects import CylinderObject

FLOOR_M = 0.02  # the bins' floor lies this far above their origin
TRAY, BOX = (-0.06, -0.25, 0.80), (-0.06, 0.27, 0.80)  # nearer than robosuite's: all arms reach


class PlaceInBin(PickPlace):
    """robosuite's PickPlace with a can of any size; `goal` says which compartment counts.

    Compartments 0 to 3 are near right, far right, near left, far left as the robot sees them.
    """

    def __init__(self, **settings: Any) -> None:
        """Build the scene; robosuite's own objects and their ghosts in the box are left out."""
        self.goal = 0
        super().__init__(bin1_pos=TRAY, bin2_pos=BOX, **settings)

    def _construct_visual_objects(self) -> None:
        self.visual_objects: list[Any] = []

    def _construct_objects(self) -> None:
        # softer than robosuite's 0.01 s, which blows up in four-bar fingers at our physics step
        self.objects = [CylinderObject(name="can", size=[0.022, 0.0396], solref=[0.04, 1.0])]

    @property
    def table_offset(self) -> np.ndarray:
        """Return the middle of the tray's floor in the world, [3] m."""
        return self.bin1_pos + np.array([0.0, 0.0, FLOOR_M])

    def compartment(self) -> np.ndarray:
        """Return the middle of the wanted compartment's floor in the world, [3] m."""
        side = np.array([self.goal % 2, self.goal // 2]) - 0.5
        return self.bin2_pos + np.array([*(side * self.bin_size[:2] / 2), FLOOR_M])

    def not_in_bin(self, obj_pos: np.ndarray, bin_id: int) -> bool:
        """Tell whether a position lies outside the wanted compartment, whatever `bin_id`."""
        return bool(super().not_in_bin(obj_pos, self.goal))
