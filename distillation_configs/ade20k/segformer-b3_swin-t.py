# The published comparison of methods; the teacher has 50.0 mIoU there.
_base_ = ['../_base_/ade20k-512x512_segformer-b3_swin-t.py', '../_base_/ade20k_methods.py']
published = {
    'baseline': 44.21,
    'kl': 43.17,
    'at': 44.15,
    'ifvd': 44.14,
    'cd': 45.52,
    'cgd': 45.84,
    'cgd-ws': 46.83,
}
experiments = {
    name: dict(options={'model.distillation': terms}, published=published[name])
    for name, terms in _base_.methods.items()
}
