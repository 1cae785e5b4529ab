"""What a run scores on its task, so that tasks can be pooled: one rule for all.

The return over an expert's, where one is published. Else the share of episodes that succeed, where
the task reports success. Else the return itself, which no other task's can be pooled with.
"""

from __future__ import annotations

EXPERT_RETURNS = {  # of URLB's tasks, by which its literature divides returns (arXiv 2502.07279)
    "walker-stand": 984.0,
    "walker-walk": 971.0,
    "walker-run": 796.0,
    "walker-flip": 799.0,
    "quadruped-stand": 920.0,
    "quadruped-walk": 866.0,
    "quadruped-run": 888.0,
    "quadruped-jump": 888.0,
    "jaco-reach-top-left": 191.0,
    "jaco-reach-top-right": 223.0,
    "jaco-reach-bottom-left": 193.0,
    "jaco-reach-bottom-right": 203.0,
}
OVER_EXPERT = "return / expert's"
SUCCESS = "success"
RETURN = "return"


def unit(task: str, has_success: bool) -> str:
    """Returns what a task's score is: OVER_EXPERT, SUCCESS or RETURN.

    Args:
        task: Name of the task.
        has_success: Whether its evaluations report success.
    """
    if task in EXPERT_RETURNS:
        return OVER_EXPERT
    return SUCCESS if has_success else RETURN


def score(task: str, mean_return: float, success: float | None) -> float:
    """Returns the score of an evaluation.

    Args:
        task: Name of the task.
        mean_return: Mean return.
        success: Share of episodes that succeeded, or None.
    """
    of = unit(task, success is not None)
    if of == OVER_EXPERT:
        return mean_return / EXPERT_RETURNS[task]
    return mean_return if success is None else success
