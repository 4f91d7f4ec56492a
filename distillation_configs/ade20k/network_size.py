# CGD from each SegFormer to each smaller one; teachers are mmseg's published checkpoints.
_base_ = ['../_base_/ade20k-512x512_segformer-b3_segformer-b0.py', '../_base_/ade20k_methods.py']
model = dict(distillation=_base_.methods.cgd)
config = 'mmseg::segformer/segformer_mit-{}_8xb2-160k_ade20k-512x512.py'
url = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/segformer_mit-{0}_512x512_160k_ade20k/segformer_mit-{0}_512x512_160k_ade20k_{1}.pth'
files = {
    'b1': '20210726_112106-d70e859d',
    'b2': '20210726_112103-cbd414ac',
    'b3': '20210726_081410-962b98d2',
    'b4': '20210728_183055-7f509d7d',
}
experiments = {
    f'{teacher}-b{size}': dict(
        options={
            'model.teacher.config': config.format(teacher),
            'model.teacher.checkpoint': url.format(teacher, file),
            'model.student.config': config.format(f'b{size}'),
        },
        published=40.39 if (teacher, size) == ('b3', 0) else None,
    )
    for teacher, file in files.items()
    for size in range(int(teacher[1:]))
}
