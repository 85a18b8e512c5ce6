// RUN: terra-opt %s -split-input-file -terra-decompose -canonicalize -cse | FileCheck %s

// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  // CHECK: %[[X:.*]] = terra.read
  // CHECK: %[[ONE:.*]] = terra.constant 1.0{{.*}} : tensor<f32>
  // CHECK: %[[N:.*]] = terra.neg %[[X]]
  // CHECK: %[[E:.*]] = terra.exp %[[N]]
  // CHECK: %[[D:.*]] = terra.add %[[ONE]], %[[E]]
  // CHECK: terra.div %[[X]], %[[D]]
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<4xf32>
    %b = terra.silu %a : (tensor<4xf32>) -> tensor<4xf32>
    terra.write %b, %0 offset 0 strides [1] : tensor<4xf32>
  }
}

// -----

// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  // CHECK: %[[X:.*]] = terra.read
  // CHECK: %[[M:.*]] = terra.max_of_numbers %[[X]] {dims = array<i64: 1>} : (tensor<4x8xf32>) -> tensor<4x1xf32>
  // CHECK: %[[S:.*]] = terra.sub %[[X]], %[[M]]
  // CHECK: %[[E:.*]] = terra.exp %[[S]]
  // CHECK: %[[T:.*]] = terra.sum %[[E]] {dims = array<i64: 1>}
  // CHECK: %[[R:.*]] = terra.div %{{.*}}, %[[T]]
  // CHECK: terra.mul %[[E]], %[[R]]
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [8, 1] : tensor<4x8xf32>
    %b = terra.softmax %a {dim = 1} : (tensor<4x8xf32>) -> tensor<4x8xf32>
    terra.write %b, %0 offset 0 strides [8, 1] : tensor<4x8xf32>
  }
}
