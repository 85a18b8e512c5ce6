"""The ten lines of the README: decorate a training step, change nothing else."""

import terra
import torch
import torch.nn.functional as F

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters())


@terra.function
def step(images, labels):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()


images, labels = torch.rand(256, 64), torch.randint(0, 10, (256,))
for i in range(200):
    loss = step(images, labels)
    if i % 50 == 0:
        print(f"step {i}: loss {loss.item():.4f}")  # Python runs as always: print, debug, branch on values

terra.synchronize()
print(terra.explain(step))
