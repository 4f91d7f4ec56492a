"""Published distillations by name: `distillation=[dict(recipe='cwd')]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mmseg_kd.errors import ConfigError, Problems, nearest, short_repr


@dataclass(frozen=True)
class Recipe:
    """The terms of a paper.

    Attributes:
        source: Where the terms and their numbers are from, and what is not here.
        terms: Entries of `distillation` whose layers are roles.
    """

    source: str
    terms: Sequence[Mapping[str, Any]]


def _term(role: str, weight: Any, loss: str, **arguments: Any) -> dict[str, Any]:
    layers = dict(student_layer=role, teacher_layer=role)
    return dict(**layers, loss=dict(type=loss, **arguments), weight=weight)


def _scheduled(term: Mapping[str, Any], *schedule: Mapping[str, Any]) -> dict[str, Any]:
    return {**term, 'schedule': list(schedule)}


_KL = _term('@scores', 1.0, 'KLLoss', resolution='student')
_CWD = _term('@scores', 3.0, 'CWD', tau=4.0, resolution='student')

RECIPES: Mapping[str, Recipe] = {
    'afdcd': Recipe(
        'Fan et al., Augmentation-free Dense Contrastive Knowledge Distillation, NeurIPS 2023: '
        'weights of Cityscapes.',
        [_term('@stage', 1.0, 'AfDCDLoss', feature_weight=2e-6, contrast_weight=0.005), _KL],
    ),
    'at': Recipe(
        'Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017. Its weight is for '
        'classification, so here it sets itself.',
        [_term('@stage', 'auto', 'AttentionTransferLoss')],
    ),
    'cgd': Recipe(
        'SegDistill, CGD for ADE20K in 160000 iterations.',
        [
            _scheduled(
                _term('@scores', 3.0, 'CGDLoss', group_size=10, tau=2.0),
                dict(type='LinearWarmup', end=2000),
                dict(type='LinearDecay', begin=110000, end=120000),
            )
        ],
    ),
    'cirkd': Recipe(
        'Yang et al., Cross-Image Relational Knowledge Distillation, CVPR 2022, with the images of '
        'a batch. Its memory is CIRKDMemoryLoss, weight 0.1, which needs to be told numbers of '
        'channels and classes.',
        [_KL, _term('@features', 1.0, 'CIRKDLoss', tau=0.1)],
    ),
    'cwd': Recipe(
        'Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021.', [_CWD]
    ),
    'dist': Recipe(
        'Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, without its '
        'second term on auxiliary scores.',
        [_term('@scores', 1.0, 'DISTLoss')],
    ),
    'dkd': Recipe(
        'Zhao et al., Decoupled Knowledge Distillation, CVPR 2022: numbers of CIFAR-100, where '
        'the weight is warmed up over 20 epochs.',
        [_term('@scores', 1.0, 'DKDLoss', alpha=1.0, beta=8.0, tau=4.0, ignore_index=255)],
    ),
    'feature': Recipe(
        "Romero et al., FitNets, ICLR 2015, with the weights of CIRKD's code for segmentation.",
        [_KL, _term('@features', 10.0, 'FeatureLoss')],
    ),
    'ifvd': Recipe(
        'Wang et al., Intra-class Feature Variation Distillation, ECCV 2020, with the weights of '
        'SegDistill.',
        [_term('@scores', 1.0, 'IFVDLoss')],
    ),
    'jaccard': Recipe(
        'Wang et al., Jaccard Metric Losses, NeurIPS 2023: its weights beside a cross-entropy of '
        'weight 1, without an auxiliary head.',
        [
            _KL,
            _term('@scores', 6.0, 'JaccardLoss', label_weight=0.5, smooth=1.0, ignore_index=255),
        ],
    ),
    'kl': Recipe(
        'Hinton et al., Distilling the Knowledge in a Neural Network, 2015, for each pixel.', [_KL]
    ),
    'maskd': Recipe(
        'Huang et al., Masked Distillation with Receptive Tokens, ICLR 2023, without its second '
        'term on auxiliary scores.',
        [_term('@scores', 1.0, 'MasKDLoss', num_tokens=8)],
    ),
    'mgd': Recipe(
        'Yang et al., Masked Generative Distillation, ECCV 2022: for maps of 64x64 positions.',
        [_term('@stage', 2e-5, 'MGDLoss', mask_ratio=0.75), _CWD],
    ),
    'pkd': Recipe(
        'Cao et al., PKD, NeurIPS 2022. Its weight is for detection, so here it sets itself.',
        [_term('@stage', 'auto', 'PKDLoss')],
    ),
    'skd': Recipe(
        'Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, '
        'without its discriminator. Its 10 is for the sum over the 8 images of a batch, 80 for '
        'the mean.',
        [
            {**_KL, 'weight': 80.0},
            _term('@features', 0.5, 'SKDLoss', pool=0.5, detach_norm=True),
        ],
    ),
}

# What an entry may say of all terms of a recipe at once.
_OF_ALL = ('schedule', 'teacher', 'reduction', 'teacher_weights')


def recipe_of(name: Any, where: str) -> Recipe:
    """The recipe of a name.

    Raises:
        ConfigError: There is none.
    """
    if not (isinstance(name, str) and name in RECIPES):
        hint = nearest(name, list(RECIPES)) if isinstance(name, str) else ', '.join(RECIPES)
        raise ConfigError(f'{where}: there is no recipe {short_repr(name)}; {hint}.')
    return RECIPES[name]


def expanded(entries: Any) -> Any:
    """A list `distillation` with the terms of recipes in the place of their names.

    What is no list stays as it is.

    Raises:
        ConfigError: As `terms_of_entry`; `ManyErrors` where that is more than one.
    """
    if not isinstance(entries, (list, tuple)):
        return entries
    problems = Problems()
    found: list[Any] = []
    for index, entry in enumerate(entries):
        with problems:
            found += terms_of_entry(entry, f'distillation[{index}]')
    problems.raise_if_any()
    return found


def terms_of_entry(entry: Any, where: str) -> list[Any]:
    """The terms of an entry of `distillation`: of its recipe, or itself.

    Other keys than the recipe's name take the place of the recipe's; a `loss` without a type
    changes arguments of its loss.

    Args:
        entry: The entry.
        where: Its place in the user's config, for messages.

    Raises:
        ConfigError: There is no such recipe, or a key does not say of which of its terms it is.
    """
    if not (isinstance(entry, Mapping) and 'recipe' in entry):
        return [entry]
    recipe = recipe_of(entry['recipe'], f'{where}.recipe')
    own = {key: value for key, value in entry.items() if key != 'recipe'}
    for key in own:
        if len(recipe.terms) > 1 and key not in _OF_ALL:
            raise ConfigError(
                f'{where}.{key}: the recipe {entry["recipe"]!r} has {len(recipe.terms)} terms; of '
                f'all of them an entry can say {", ".join(_OF_ALL)}. mmseg-kd print-config CONFIG '
                'writes them out, to change one.'
            )
    terms = [{**deepcopy(dict(term)), **own} for term in recipe.terms]
    loss = own.get('loss')
    if isinstance(loss, Mapping) and 'type' not in loss:
        terms[0]['loss'] = {**recipe.terms[0]['loss'], **loss}
    return terms
