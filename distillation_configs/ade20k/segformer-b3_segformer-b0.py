# The published comparison of methods; the teacher has 50.0 mIoU there.
_base_ = ['../_base_/ade20k-512x512_segformer-b3_segformer-b0.py', '../_base_/ade20k_methods.py']
published = {
    'baseline': 38.0,
    'kl': 38.61,
    'at': 38.43,
    'ifvd': 38.72,
    'cd': 39.66,
    'cgd': 40.39,
    'cgd-ws': 41.27,
}
experiments = {
    name: dict(options={'model.distillation': terms}, published=published[name])
    for name, terms in _base_.methods.items()
}
