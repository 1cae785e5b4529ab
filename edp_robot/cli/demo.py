"""`edp demo`: the whole pipeline once on this machine, with a report at the end."""

from __future__ import annotations

from typing import Annotated, Any

from tyro.conf import arg


def _options() -> Any:
    from edp_robot.demo.road import Options

    return Options


def demo(options: Annotated[Any, arg(name="", constructor_factory=_options)]) -> int:
    """Train in MuJoCo without reward, fine-tune, distil, export, serve, drive a robot, measure.

    Example: edp demo --preset smoke --out runs/smoke
    """
    from edp_robot.demo.road import Road, prepare

    prepare(options.out, options.resume)
    Road(options).run()
    return 0
