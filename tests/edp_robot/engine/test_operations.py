"""Recorded steps of one operation each, and of random ones, against the plain step."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edp_robot.engine import Adam, Recorded

# A replay that resizes a result has lost its shape, even where the numbers come out right.
pytestmark = pytest.mark.filterwarnings("error:An output with one or more elements was resized")
N_CALLS = 5  # plain, recorded, three replays


def made(values):
    """Returns results as a step does."""
    return {str(i): value for i, value in enumerate(values)}


def outcome(make, shapes, recordable, n_calls=N_CALLS):
    """Returns what a step returned at each call, and its inputs afterwards.

    Args:
        make: Returns a step with fresh state.
        shapes: Those of its inputs.
        recordable: Whether it is recorded.
        n_calls: Calls.
    """
    torch.manual_seed(0)
    step = Recorded(make(), recordable)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(n_calls):
        inputs = [torch.randn(*shape, generator=generator) for shape in shapes]
        found.append([result.detach().clone() for result in step(*inputs).values()] + inputs)
    assert len(step.recordings) == recordable
    return found


def check(make, *shapes):
    plain = outcome(make, shapes, recordable=False)
    recorded = outcome(make, shapes, recordable=True)
    for i, (one, other) in enumerate(zip(plain, recorded, strict=True)):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b), f"call {i}: {a} plainly, {b} recorded"


def masked(x):
    y = x.clone()
    y[y > 0] = 0.0
    return y


def literal_written(x):
    total = torch.tensor(0.0)
    total += x.sum()
    return total


def constant_written_late(x):
    base = torch.zeros(4, 6)
    early = base + 1
    base[1:].add_(x[1:])
    return base, early, base + 1


def written_through_detach(x):
    y = x.clone()
    y.detach().mul_(2)
    return y


def out_given(x):
    y = torch.zeros(4, 6)
    torch.sin(x, out=y)
    return y


def list_written(x):
    several = [x.clone(), torch.ones(4, 6), x[:, 0].clone()]
    torch._foreach_mul_(several, 3.0)
    return several


def turned_in_place(x):
    y = x * 2
    early = y.sum(0)
    y.t_()
    late = y.sum(0)
    y.unsqueeze_(0).squeeze_(0)
    y.resize_(3, 4)
    return early, late, y, torch.sin(x, out=torch.empty(0))


def put(x):
    rows = torch.tensor([0, 2, 0])
    return torch.zeros(4, 6).index_put_((rows,), x[:3], accumulate=True)


OPERATIONS = {
    "constant": lambda x: [torch.arange(6.0) + 1, torch.ones(4, 6) * x],
    "literal": lambda x: [x[:, :3] * torch.tensor([1.0, 2.0, 3.0]), torch.tensor(2.0)],
    "literal written": lambda x: [literal_written(x)],
    "constant written late": constant_written_late,
    "constant read": lambda x: [x * torch.linspace(0, 1, 3)[1].item(), x * sum([1, 2])],
    "constant mask": lambda x: [x[torch.tensor([True, False, True, True])]],
    "empty filled": lambda x: [torch.empty(4).fill_(2), torch.empty_like(x).copy_(x)],
    "written through detach": lambda x: [written_through_detach(x)],
    "turned in place": turned_in_place,
    "out given": lambda x: [out_given(x)],
    "mask assigned": lambda x: [masked(x)],
    "index put": lambda x: [put(x)],
    "scatter": lambda x: [torch.zeros(4, 6).scatter_(1, x.argsort(1), x)],
    "views of the input": lambda x: [x, x[1:, 2], x.T, x.expand(2, 4, 6)],
    "transposed": lambda x: [x.T.contiguous() @ x, (x.T + 1).sum(0)],
    "one list in": lambda x: [torch.cat([x]), torch.cat([x, x.sin(), x[:1]]), torch.stack([x, x])],
    "one list out": lambda x: torch._foreach_mul([x], 2.0),
    "lists out": lambda x: torch._foreach_mul([x, x[1:]], 2.0),
    "list written": list_written,
    "clipped": lambda x: [torch.nn.utils.get_total_norm([x])],
    "topk": lambda x: x.topk(2),
    "max": lambda x: x.max(1),
    "median": lambda x: x.median(0),
    "std_mean": lambda x: torch.std_mean(x, 0),
    "sort": lambda x: x.sort(0),
    "layer norm": lambda x: [F.layer_norm(x, (6,))],
    "layer norm's three": lambda x: torch.native_layer_norm(x, (6,), None, None, 1e-5),
    "softmax": lambda x: [x.softmax(-1), x.log_softmax(0), torch.logsumexp(x, 0)],
    "split": lambda x: [part + 1 for part in x.split(4, 1)],
    "conjugate": lambda x: [(torch.fft.fft(x).conj() * 2).imag + 0],
    "randn": lambda x: [torch.randn(3), torch.randn_like(x), torch.rand(2)],
    "drawn in place": lambda x: [torch.empty(5).normal_(), torch.zeros(5).exponential_()],
    "drawn of constants": lambda x: [torch.normal(torch.zeros(3), 1.0), torch.poisson(x.exp())],
    "drawn numbers": lambda x: [x[torch.randperm(4)], torch.randint(4, (3,))],
    "drawn choice": lambda x: [torch.multinomial(torch.ones(4), 2), torch.bernoulli(x.sigmoid())],
    "dropout": lambda x: [F.dropout(x, 0.5), F.gumbel_softmax(x)],
    "written and returned": lambda x: [F.rrelu(x, training=True)],
    "double": lambda x: [x.double() * 2, (x > 0).float(), x.long()],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_repeated(name):
    check(lambda: lambda x: made(OPERATIONS[name](x)), (4, 6))


def learning(network, optimizer=lambda parameters: Adam(parameters, 1e-2)):
    """Returns a function that makes a step which trains a new `network()`."""

    def make():
        torch.manual_seed(0)
        net = network()
        own = optimizer(net.parameters())

        def step(x):
            y = net(x)
            loss = (y[0] if isinstance(y, tuple) else y).square().mean()
            own.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            own.step()
            return made([loss, *net.parameters(), *net.buffers()])

        return step

    return make


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


NETWORKS = {
    "batch norm": (learning(lambda: nn.BatchNorm1d(4)), (8, 4)),
    "convolution": (learning(lambda: nn.Conv1d(2, 3, 3)), (8, 2, 9)),
    "recurrent": (learning(lambda: nn.GRU(2, 3, batch_first=True)), (4, 5, 2)),
    "attention": (
        learning(lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
        (3, 5, 4),
    ),
    "sgd": (learning(lambda: nn.Linear(3, 2), sgd), (4, 3)),
    "one parameter": (learning(lambda: nn.Linear(3, 2, bias=False), sgd), (4, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_others_learn_the_same(name):
    """Results are views of parameters and buffers, which the next call changes."""
    make, shape = NETWORKS[name]
    check(make, shape)


def test_a_step_without_inputs_is_repeated():
    check(lambda: lambda: made([torch.randn(3)]))


def random_step(seed):
    """Returns a function that makes a step of random operations on a pool of (3, 4) tensors.

    They view, write in place, through views too, and into a buffer. Results may be any of them.
    """

    def make():
        buffer = torch.zeros(3, 4)

        def step(x):
            draw = random.Random(seed)
            pool = [x + 1, torch.ones(3, 4), buffer * 2, torch.zeros_like(x)]

            def pick():
                return draw.choice(pool)

            operations = [
                lambda: pool.append(pick() * 0.5 + pick()),
                lambda: pool.append(pick().tanh()),
                lambda: pool.append(pick().reshape(4, 3).T),
                lambda: pool.append(pick().detach().flip(0)),
                lambda: pool.append(pick().detach()),
                lambda: pool.append(torch.where(pick() > 0, pick(), pick())),
                lambda: pool.append(torch.cat([pick()[:1], pick()[1:]])),
                lambda: pool.append(pick().sort(1).values),
                lambda: pool.append(torch.randn(3, 4)),
                lambda: pool.append(torch.full((3, 4), 0.5)),
                lambda: pick().mul_(0.5),
                lambda: pick()[1].copy_(pick()[2]),
                lambda: torch._foreach_add_([pick().T, pick()[:, :2].T], 0.25),
                lambda: buffer.lerp_(pick(), 0.5),
            ]
            for _ in range(14):
                draw.choice(operations)()
            return made([pick(), pick()[1:], pick().sum(), buffer, *pool[-3:]])

        return step

    return make


def test_random_operations_share_memory_without_harm():
    for seed in range(60):
        check(random_step(seed), (3, 4))
