// RUN: terra-opt %s -split-input-file -terra-simplify -canonicalize | FileCheck %s

// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  %2 = terra.slot 2
  %3 = terra.slot 3
  terra.group [0] {
    // CHECK: %[[A:.*]] = terra.read %0
    %a = terra.read %0 offset 0 strides [1] : tensor<4xf32>
    %two = terra.constant 2 : i64 : tensor<f32>
    %half = terra.constant 0.5 : f64 : tensor<f32>
    // CHECK: %[[SQUARE:.*]] = terra.mul %[[A]], %[[A]]
    %p = terra.pow %a, %two : (tensor<4xf32>, tensor<f32>) -> tensor<4xf32>
    // CHECK: %[[ROOT:.*]] = terra.sqrt %[[A]]
    %q = terra.pow %a, %half : (tensor<4xf32>, tensor<f32>) -> tensor<4xf32>
    // A cast to a narrower type rounds: there and back is not nothing.
    // CHECK: %[[NARROW:.*]] = terra.cast %[[ROOT]]
    // CHECK: %[[WIDE:.*]] = terra.cast %[[NARROW]]
    %n = terra.cast %q : (tensor<4xf32>) -> tensor<4xbf16>
    %w = terra.cast %n : (tensor<4xbf16>) -> tensor<4xf32>
    %r = terra.reshape %a : (tensor<4xf32>) -> tensor<4x1xf32>
    %s = terra.sum %r {dims = array<i64: 1>} : (tensor<4x1xf32>) -> tensor<4x1xf32>
    %t = terra.reshape %s : (tensor<4x1xf32>) -> tensor<4xf32>
    // CHECK: terra.write %[[SQUARE]], %1
    terra.write %p, %1 offset 0 strides [1] : tensor<4xf32>
    // CHECK: terra.write %[[WIDE]], %2
    terra.write %w, %2 offset 0 strides [1] : tensor<4xf32>
    // CHECK: terra.write %[[A]], %3
    terra.write %t, %3 offset 0 strides [1] : tensor<4xf32>
  }
}

// -----

// The sum of a one-hot row is what stands in it, if anything does.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  terra.group [0] {
    // CHECK: %[[I:.*]] = terra.read %0
    // CHECK-DAG: %[[ABOVE:.*]] = terra.ge %[[I]]
    // CHECK-DAG: %[[BELOW:.*]] = terra.lt %[[I]]
    // CHECK: %[[IN:.*]] = terra.logical_and %[[ABOVE]], %[[BELOW]]
    // CHECK: %[[S:.*]] = terra.where %[[IN]], {{.*}} -> tensor<4x1xf32>
    // CHECK-NOT: terra.sum
    // CHECK: terra.write %[[S]], %1
    %i = terra.read %0 offset 0 strides [1, 1] : tensor<4x1xi64>
    %n = terra.iota 1 : tensor<1x8xi64>
    %h = terra.eq %i, %n : (tensor<4x1xi64>, tensor<1x8xi64>) -> tensor<4x8xi1>
    %x = terra.constant 3.0 : f64 : tensor<f32>
    %z = terra.constant 0.0 : f64 : tensor<f32>
    %w = terra.where %h, %x, %z : (tensor<4x8xi1>, tensor<f32>, tensor<f32>) -> tensor<4x8xf32>
    %s = terra.sum %w {dims = array<i64: 1>} : (tensor<4x8xf32>) -> tensor<4x1xf32>
    terra.write %s, %1 offset 0 strides [1, 1] : tensor<4x1xf32>
  }
}
