// RUN: terra-opt %s -split-input-file -terra-fuse | FileCheck %s
// RUN: terra-opt %s -split-input-file -terra-fusion-stage -terra-kernel-stage | FileCheck %s --check-prefix=KERNELS

// Two calls on lists of two tensors: the parts of each tensor fuse, and one instruction has them all.
// CHECK-LABEL: terra.segment
// CHECK-COUNT-1: terra.group [0, 1] fused_away [4, 5]
// CHECK-NOT: terra.group
// KERNELS: terra.group [0, 1]
// KERNELS: terra.kernel domain [8]
// KERNELS: terra.mul
// KERNELS: terra.neg
// KERNELS: terra.kernel domain [4]
// KERNELS: terra.mul
// KERNELS: terra.neg
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 external
  %2 = terra.slot 2
  %3 = terra.slot 3
  %4 = terra.slot 4 death 1
  %5 = terra.slot 5 death 1
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<8xf32>
    %b = terra.mul %a, %a : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
    terra.write %b, %4 offset 0 strides [1] : tensor<8xf32>
  }
  terra.group [0] {
    %a = terra.read %1 offset 0 strides [1] : tensor<4xf32>
    %b = terra.mul %a, %a : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    terra.write %b, %5 offset 0 strides [1] : tensor<4xf32>
  }
  terra.group [1] {
    %a = terra.read %4 offset 0 strides [1] : tensor<8xf32>
    %b = terra.neg %a : (tensor<8xf32>) -> tensor<8xf32>
    terra.write %b, %2 offset 0 strides [1] : tensor<8xf32>
  }
  terra.group [1] {
    %a = terra.read %5 offset 0 strides [1] : tensor<4xf32>
    %b = terra.neg %a : (tensor<4xf32>) -> tensor<4xf32>
    terra.write %b, %3 offset 0 strides [1] : tensor<4xf32>
  }
}

// -----

// Parts of different sizes that share memory which one of them writes are left to the host.
// CHECK-LABEL: terra.segment
// CHECK: terra.group [0] attributes {failed}
terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<8xf32>
    %b = terra.neg %a : (tensor<8xf32>) -> tensor<8xf32>
    terra.write %b, %0 offset 0 strides [1] : tensor<8xf32>
  }
  terra.group [0] {
    %a = terra.read %0 offset 8 strides [1] : tensor<4xf32>
    %b = terra.neg %a : (tensor<4xf32>) -> tensor<4xf32>
    terra.write %b, %0 offset 8 strides [1] : tensor<4xf32>
  }
}
