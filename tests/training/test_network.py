"""The network's gradients, those written by hand included, against finite differences."""

import pytest

torch = pytest.importorskip("torch")

from slipstream.training.dropout import MaskPool  # noqa: E402
from slipstream.training.losses import softmax_loss_reference  # noqa: E402
from slipstream.training.transformer_network import Dropout, NetworkShape, TransformerNetwork  # noqa: E402

ITEMS, SLOTS = 11, 32
FIRST = torch.tensor([0] * 9 + [9] * 23)


def network_of(**body):
    shape = NetworkShape(ITEMS, 8, 2, 2, 6, gap_bins=24, query_time=True, **body)
    network = TransformerNetwork(shape, seed=2).double()
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
    return network


def value_of(network):
    """A number that depends on every parameter, with dropout from the same masks every time."""
    stream = torch.Generator().manual_seed(1)
    item, gap, wait = (torch.randint(top, (SLOTS,), generator=stream) for top in (ITEMS, 24, 24))
    upstream = torch.randn(SLOTS, 8, generator=stream, dtype=torch.float64)
    pool = MaskPool(0.3, torch.float64, stream)
    masks = stream.get_state()

    def value():
        stream.set_state(masks)
        dropout = Dropout(pool, pool)
        hidden = network(network.item_table(), item, gap, FIRST, dropout, torch.float64, wait)
        return (hidden * upstream).sum()

    return value


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ffn": "swiglu"},
        {"residual": "gated"},
        {"cosine": True, "residual": "gated"},
        {"body": "hstu"},
        {"body": "hstu", "residual": "gated"},
    ],
)
def test_every_gradient_agrees_with_a_finite_difference(body):
    network = network_of(**body)
    named = dict(network.named_parameters())
    value = value_of(network)
    gradients = torch.autograd.grad(value(), list(named.values()))
    stream = torch.Generator().manual_seed(3)
    step = 1e-6
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
        sides = []
        for sign in (step, -2 * step):
            with torch.no_grad():
                parameter.add_(sign * direction)
            sides.append(value().item())
        with torch.no_grad():
            parameter.add_(step * direction)
        difference = (sides[0] - sides[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("body", [{}, {"body": "hstu", "residual": "gated"}])
def test_the_network_stays_on_its_device(body):
    """On the device without memory: a tensor that was made on the processor would not go together with it."""
    shape = NetworkShape(ITEMS, 8, 2, 2, 6, gap_bins=24, query_time=True, cosine=True, **body)
    network = TransformerNetwork(shape, seed=2).to("meta")
    item, gap, wait, first = (torch.zeros(SLOTS, dtype=torch.long, device="meta") for _ in range(4))
    off = MaskPool(0.0, torch.bfloat16, torch.Generator())
    table = network.item_table()
    hidden = network(table, item, gap, first, Dropout(off, off), torch.bfloat16, wait)
    hidden, output = network.output(hidden, table, 0.05)
    loss = softmax_loss_reference(hidden, output.to(torch.bfloat16), item[:, None], hidden.new_ones(SLOTS, 1))
    gradients = torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad])
    assert {g.device.type for g in (hidden, output, loss, *gradients)} == {"meta"}
