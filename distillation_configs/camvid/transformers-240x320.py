# AttentionValueLoss wants two transformers: a slim one that CWD taught for 4800 steps of 4 images
# teaches another of its kind in 1200. Run it twice, as that teacher is one of the methods.
_base_ = '../_base_/camvid-240x320_short.py'
model = dict(student=dict(config=_base_.ours + 'mit-slim_segformer_camvid-240x320.py'))
scores = dict(recipe='cwd')
block = 'backbone.layers.2.1.0.attn.attn'
layers = [f'{block}.weights', f'{block}.value']
attention = dict(
    student_layer=layers, teacher_layer=layers, loss=dict(type='AttentionValueLoss'), weight=1.0
)
by_slim = dict(_delete_=True, run='work_dirs/transformers-240x320/cwd_4800/seed0')
experiments = {
    'alone': dict(),
    'cwd': dict(options={'model.distillation': [scores]}),
    'cwd_4800': dict(
        options={
            'model.distillation': [scores],
            'train_cfg.max_iters': 4800,
            'train_cfg.val_interval': 1600,
            'default_hooks.checkpoint.interval': 1600,
            'param_scheduler.1.end': 4800,
        }
    ),
    'slim_cwd': dict(options={'model.teacher': by_slim, 'model.distillation': [scores]}),
    'AttentionValueLoss': dict(
        options={'model.teacher': by_slim, 'model.distillation': [attention]}
    ),
    'slim_cwd_attention': dict(
        options={'model.teacher': by_slim, 'model.distillation': [scores, attention]}
    ),
}
comparison = dict(baseline='alone', seeds=1)
