# A reduced form of SLA: only the self-teacher has joint labels (docs/methods/frskd.md).
_base_ = './frskd_wrn_16_2_cifar100.py'
model = dict(methods=dict(frskd=dict(rotations=True)))
