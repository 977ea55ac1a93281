"""From whatever holds faces to batches on the device: sources, pack, plan, stream; augmentation on whole batches."""
