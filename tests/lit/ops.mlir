// Every kind of op parses and prints as it was.
// RUN: terra-opt %s | terra-opt | FileCheck %s

// CHECK-LABEL: terra.segment
terra.segment {
  // CHECK: %[[X:.*]] = terra.slot 0 external
  %0 = terra.slot 0 external
  // CHECK: %[[Y:.*]] = terra.slot 1 death 7
  %1 = terra.slot 1 death 7
  %2 = terra.slot 2
  // CHECK: terra.extern "aten::mm" event 0 reads(%[[X]]) writes(%[[Y]])
  terra.extern "aten::mm" event 0 reads(%0) writes(%1)
  // CHECK: terra.extern "aten::view" event 1 views reads(%[[X]])
  terra.extern "aten::view" event 1 views reads(%0)
  // CHECK: terra.extern "aten::bernoulli_.float" event 2 random writes(%[[X]])
  terra.extern "aten::bernoulli_.float" event 2 random writes(%0)
  // CHECK: terra.group [3, 4] fused_away [1] {
  terra.group [3, 4] fused_away [1] {
    // CHECK: terra.read %[[X]] offset 2 feed 5 strides [1, 8] : tensor<4x8xf32>
    %a = terra.read %0 offset 2 feed 5 strides [1, 8] : tensor<4x8xf32>
    // CHECK: terra.constant 2.500000e+00 : f64 : tensor<f32>
    %c = terra.constant 2.5 : f64 : tensor<f32>
    // CHECK: terra.feed 1 : tensor<f64>
    %f = terra.feed 1 : tensor<f64>
    // CHECK: terra.cast %{{.*}} : (tensor<f64>) -> tensor<f32>
    %g = terra.cast %f : (tensor<f64>) -> tensor<f32>
    // CHECK: terra.mul %{{.*}}, %{{.*}} : (tensor<4x8xf32>, tensor<f32>) -> tensor<4x8xf32>
    %b = terra.mul %a, %c : (tensor<4x8xf32>, tensor<f32>) -> tensor<4x8xf32>
    // CHECK: terra.lt %{{.*}} -> tensor<4x8xi1>
    %m = terra.lt %b, %g : (tensor<4x8xf32>, tensor<f32>) -> tensor<4x8xi1>
    // CHECK: terra.where
    %w = terra.where %m, %b, %g : (tensor<4x8xi1>, tensor<4x8xf32>, tensor<f32>) -> tensor<4x8xf32>
    // CHECK: terra.sum %{{.*}} {dims = array<i64: 0>}
    %s = terra.sum %w {dims = array<i64: 0>} : (tensor<4x8xf32>) -> tensor<1x8xf32>
    // CHECK: terra.reshape %{{.*}} : (tensor<1x8xf32>) -> tensor<8xf32>
    %r = terra.reshape %s : (tensor<1x8xf32>) -> tensor<8xf32>
    // CHECK: terra.write %{{.*}}, %{{.*}} offset 0 strides [1] : tensor<8xf32>
    terra.write %r, %2 offset 0 strides [1] : tensor<8xf32>
  }
}
