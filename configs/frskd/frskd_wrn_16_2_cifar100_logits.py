_base_ = './frskd_wrn_16_2_cifar100.py'
model = dict(methods=dict(frskd=dict(feature=None)))
