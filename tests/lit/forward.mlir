// RUN: terra-opt %s -split-input-file -terra-forward -verify-diagnostics | FileCheck %s

// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  // CHECK: terra.group
  // CHECK-NEXT: %[[A:.*]] = terra.read %0
  // CHECK-NEXT: %[[B:.*]] = terra.exp %[[A]]
  // CHECK-NEXT: %[[R:.*]] = terra.reshape %[[B]] : (tensor<2x4xf32>) -> tensor<8xf32>
  // CHECK-NEXT: %[[C:.*]] = terra.neg %[[R]]
  // CHECK-NEXT: %[[D:.*]] = terra.add %[[B]], %[[A]]
  // CHECK-NEXT: terra.write %[[D]], %0
  // CHECK-NEXT: terra.write %[[C]], %1
  // CHECK-NEXT: }
  terra.group [0, 1, 2] fused_away [9] {
    %a = terra.read %0 offset 0 strides [4, 1] : tensor<2x4xf32>
    %b = terra.exp %a : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %again = terra.read %0 offset 0 strides [4, 1] : tensor<2x4xf32>
    terra.write %b, %0 offset 0 strides [4, 1] : tensor<2x4xf32>
    %r = terra.read %0 offset 0 strides [1] : tensor<8xf32>
    %c = terra.neg %r : (tensor<8xf32>) -> tensor<8xf32>
    %s = terra.read %0 offset 0 strides [4, 1] : tensor<2x4xf32>
    %d = terra.add %s, %again : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    terra.write %d, %0 offset 0 strides [4, 1] : tensor<2x4xf32>
    terra.write %c, %1 offset 0 strides [1] : tensor<8xf32>
  }
}

// -----

// A read that broadcasts what was written.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 death 2
  %2 = terra.slot 2
  // CHECK: terra.group {{.*}} fused_away [1]
  // CHECK: %[[E:.*]] = terra.exp
  // CHECK-NEXT: %[[R:.*]] = terra.reshape %[[E]] : (tensor<4xf32>) -> tensor<4x1xf32>
  // CHECK-NEXT: %[[B:.*]] = terra.cast %[[R]] : (tensor<4x1xf32>) -> tensor<4x3xf32>
  // CHECK-NEXT: terra.write %[[B]], %2
  // CHECK-NEXT: }
  terra.group [0, 1] fused_away [1] {
    %a = terra.read %0 offset 0 strides [1] : tensor<4xf32>
    %b = terra.exp %a : (tensor<4xf32>) -> tensor<4xf32>
    terra.write %b, %1 offset 0 strides [1] : tensor<4xf32>
    %c = terra.read %1 offset 0 strides [1, 0] : tensor<4x3xf32>
    terra.write %c, %2 offset 0 strides [3, 1] : tensor<4x3xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  // expected-remark @+1 {{views of one slot overlap; its events run as externs}}
  terra.group [0, 1] {
    %a = terra.read %0 offset 0 strides [1] : tensor<4xf32>
    %b = terra.exp %a : (tensor<4xf32>) -> tensor<4xf32>
    terra.write %b, %0 offset 0 strides [1] : tensor<4xf32>
    %c = terra.read %0 offset 2 strides [1] : tensor<4xf32>
    terra.write %c, %1 offset 0 strides [1] : tensor<4xf32>
  }
}
