# The terms of the published comparison, by method. CGD's group size, tau, weight and schedule are
# those of SegDistill; for the others its losses' own defaults stand.
logits = dict(student_layer='decode_head.conv_seg', teacher_layer='decode_head.conv_seg')
cgd = dict(**logits, loss=dict(type='CGDLoss', group_size=10, tau=2.0), weight=3.0)
warmup_and_stop = [
    dict(type='LinearWarmup', end=2000),
    dict(type='LinearDecay', begin=110000, end=120000),
]
methods = {
    'baseline': [],
    'kl': [dict(**logits, loss=dict(type='KLLoss'))],
    'at': [dict(**logits, loss=dict(type='ATLoss'))],
    'ifvd': [dict(**logits, loss=dict(type='IFVDLoss'))],
    'cd': [dict(**logits, loss=dict(type='CDLoss'))],
    'cgd': [cgd],
    'cgd-ws': [dict(**cgd, schedule=warmup_and_stop)],
}
