# The recipe of the self-distillation literature: 200 epochs, two steps, no Nesterov momentum.
# Images keep CIFAR-100's mean and deviation, where FRSKD's authors take CIFAR-10's.
_base_ = './cifar100.py'
train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=200)
optim_wrapper = dict(optimizer=dict(lr=0.1, nesterov=False, weight_decay=0.0001))
param_scheduler = dict(milestones=[100, 150])
auto_scale_lr = dict(base_batch_size=128)
