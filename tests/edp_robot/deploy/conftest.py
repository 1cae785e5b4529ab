import pytest
from support.tiny import tiny_distill, tiny_finetune

from edp_robot.deploy.export import export
from edp_robot.training.distill import distill
from edp_robot.training.finetune import finetune


@pytest.fixture(scope="package")
def tuned(pretrained, tmp_path_factory):
    """A tiny fine-tuning."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    finetune(tiny_finetune(pretrained), str(out))
    return out


@pytest.fixture(scope="package")
def student_run(tuned, tmp_path_factory):
    """A tiny distillation of it."""
    out = tmp_path_factory.mktemp("student") / "run"
    distill(tiny_distill(tuned), str(out))
    return out


@pytest.fixture(scope="package")
def bundle(student_run, tmp_path_factory):
    """The student as a bundle."""
    return export(student_run, tmp_path_factory.mktemp("bundle") / "b", metrics={"success": 0.5})
