// RUN: terra-opt %s -split-input-file -terra-separate-reductions -terra-form-kernels | FileCheck %s

// Each row is summed; the sum of these sums, and what the whole is divided by, are found by loop nests of their own.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 external
  %2 = terra.slot 2
  %3 = terra.slot 3
  // CHECK: terra.group
  // CHECK: %[[SCRATCH:.*]] = terra.scratch
  // CHECK: terra.kernel domain [8] reduced [0] {
  // CHECK: terra.sum
  // CHECK: terra.write {{.*}}, %[[SCRATCH]] offset [[TOTAL:[0-9]+]]
  // CHECK: terra.kernel domain [8, 64] reduced [1] {
  // CHECK: terra.sum
  // CHECK: terra.read %[[SCRATCH]] offset [[TOTAL]]
  // CHECK: terra.div
  // CHECK: terra.write {{.*}}, %3
  // CHECK: terra.write {{.*}}, %[[SCRATCH]] offset [[SUMS:[0-9]+]]
  // CHECK: terra.kernel domain [8] reduced [0] {
  // CHECK: terra.read %[[SCRATCH]] offset [[SUMS]]
  // CHECK: terra.sum
  // CHECK: terra.write {{.*}}, %2
  terra.group [0, 1] {
    %x = terra.read %0 offset 0 strides [64, 1] : tensor<8x64xf32>
    %w = terra.read %1 offset 0 strides [1, 1] : tensor<8x1xf32>
    %rows = terra.sum %x {dims = array<i64: 1>} : (tensor<8x64xf32>) -> tensor<8x1xf32>
    %loss = terra.sum %rows {dims = array<i64: 0, 1>} : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %total = terra.sum %w {dims = array<i64: 0, 1>} : (tensor<8x1xf32>) -> tensor<1x1xf32>
    %e = terra.sub %x, %rows : (tensor<8x64xf32>, tensor<8x1xf32>) -> tensor<8x64xf32>
    %g = terra.div %e, %total : (tensor<8x64xf32>, tensor<1x1xf32>) -> tensor<8x64xf32>
    terra.write %loss, %2 offset 0 strides [1, 1] : tensor<1x1xf32>
    terra.write %g, %3 offset 0 strides [64, 1] : tensor<8x64xf32>
  }
}

// -----

// One way of reducing: nothing is little here.
// CHECK-LABEL: terra.segment
// CHECK-NOT: terra.scratch
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  terra.group [0] {
    %x = terra.read %0 offset 0 strides [64, 1] : tensor<8x64xf32>
    %rows = terra.sum %x {dims = array<i64: 1>} : (tensor<8x64xf32>) -> tensor<8x1xf32>
    terra.write %rows, %1 offset 0 strides [1, 1] : tensor<8x1xf32>
  }
}
