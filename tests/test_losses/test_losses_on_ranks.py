"""Every loss trained on two ranks under bf16 autocast: all ranks keep the same state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import batch, build, mit, save_weights, sgd, term, wrapper_config
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from test_every_loss import QUEUES, TABLE
from torch import distributed
from training_runs import forked_ranks, free_port

from mmseg_kd.losses import LogitLoss
from mmseg_kd.registry import KD_LOSSES

RANKS = 2
STEPS = 2
SCORES = 'decode_head.conv_seg'
FEATURES = 'backbone.layers.0.2'
BLOCK = [f'backbone.layers.0.1.0.attn.attn.{one}' for one in ('weights', 'value')]
# Where the layers' channels, 8 and 16, ask for others than those of the table.
ARGUMENTS = {
    'AfDCDLoss': dict(groups=4, pool=2),
    'CIRKDMemoryLoss': dict(channels=16, in_channels=8, **QUEUES),
}


def one_term(name: str) -> dict[str, Any]:
    """A term with a loss of the registry, on layers that it is for."""
    layers: Any = FEATURES
    if issubclass(KD_LOSSES.get(name), LogitLoss) or name == 'MasKDLoss':
        layers = SCORES
    elif name == 'AttentionValueLoss':
        layers = BLOCK
    loss = dict(type=name, **ARGUMENTS.get(name, TABLE[name].arguments))
    return term(layers, layers, loss, name=name, weight=0.01)


def run_rank(rank: int, port: int, cfg: dict[str, Any], folder: str) -> None:
    """What each process does: images of its own, and two steps."""
    init_default_scope('mmseg')
    distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=RANKS
    )
    # As a runner seeds them: the networks and terms of all ranks begin alike.
    model = MMDistributedDataParallel(build(cfg, seed=0), broadcast_buffers=False)
    fresh = {key: value.clone() for key, value in model.module.terms.state_dict().items()}
    optimiser = sgd(model)
    logs = []
    for step in range(STEPS):
        MessageHub.get_current_instance().update_info('iter', step)
        torch.manual_seed(RANKS * step + rank)
        model.train()
        data = model.module.data_preprocessor(
            batch(2, seed=RANKS * step + rank, blank=0.3), training=True
        )
        with torch.autocast('cpu', dtype=torch.bfloat16):
            losses = model(**data, mode='loss')
        total, log = model.module.parse_losses(losses)
        optimiser.update_params(total)
        logs.append({key: float(value.detach()) for key, value in log.items()})
    state = model.module.terms.state_dict()
    parameters = dict(model.module.named_parameters())
    torch.save((fresh, state, parameters, logs), Path(folder) / f'{rank}.pth')
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_keep_the_same_state(tmp_path: Path, at_iteration: Callable[[int], None]) -> None:
    at_iteration(0)
    teacher = mit(16)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    cfg = wrapper_config(mit(8), teacher, checkpoint, *map(one_term, TABLE))
    with forked_ranks(run_rank, free_port(), cfg, str(tmp_path), ranks=RANKS, seconds=240):
        pass
    found = [torch.load(tmp_path / f'{rank}.pth', weights_only=False) for rank in range(RANKS)]
    (fresh, state, parameters, _), (fresh_1, state_1, parameters_1, _) = found
    for ours, theirs in ((fresh, fresh_1), (state, state_1), (parameters, parameters_1)):
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    # What a loss has learnt and filed; a pointer may have come round.
    own = [key for key in state if '.loss.' in key and not key.endswith('pointer')]
    assert own
    assert [key for key in own if torch.equal(fresh[key], state[key])] == []
    logs = [log for *_, of_rank in found for log in of_rank]
    for log in logs:
        assert {f'kd.{name}' for name in TABLE} <= log.keys()
        assert all(abs(value) < 1e6 for value in log.values()), log
    # Each rank has images of its own.
    assert logs[0] != logs[STEPS]
