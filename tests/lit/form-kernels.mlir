// RUN: terra-opt %s -split-input-file -terra-form-kernels -verify-diagnostics | FileCheck %s

// Sums over rows and over columns need two loop nests; what both need is computed in both.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  %2 = terra.slot 2
  // CHECK: terra.group
  // CHECK: terra.kernel domain [6, 4] reduced [1] {
  // CHECK: terra.exp
  // CHECK: terra.sum
  // CHECK: terra.write {{.*}}, %1
  // CHECK: terra.kernel domain [6, 4] reduced [0] {
  // CHECK: terra.exp
  // CHECK: terra.sum
  // CHECK: terra.write {{.*}}, %2
  terra.group [0, 1] {
    %a = terra.read %0 offset 0 strides [4, 1] : tensor<6x4xf32>
    %e = terra.exp %a : (tensor<6x4xf32>) -> tensor<6x4xf32>
    %r = terra.sum %e {dims = array<i64: 1>} : (tensor<6x4xf32>) -> tensor<6x1xf32>
    %c = terra.sum %e {dims = array<i64: 0>} : (tensor<6x4xf32>) -> tensor<1x4xf32>
    terra.write %r, %1 offset 0 strides [1, 1] : tensor<6x1xf32>
    terra.write %c, %2 offset 0 strides [4, 1] : tensor<1x4xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  // expected-remark @+1 {{has no loop nest; its events run as externs}}
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [4, 1] : tensor<6x4xf32>
    %r = terra.sum %a {dims = array<i64: 1>} : (tensor<6x4xf32>) -> tensor<6x1xf32>
    %c = terra.sum %r {dims = array<i64: 0>} : (tensor<6x1xf32>) -> tensor<1x1xf32>
    terra.write %c, %1 offset 0 strides [1, 1] : tensor<1x1xf32>
  }
}
