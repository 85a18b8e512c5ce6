// RUN: terra-opt %s -split-input-file -terra-fuse | FileCheck %s

// A chain joins; the temporary never reaches memory, the survivor does.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 death 2
  %2 = terra.slot 2
  // CHECK: terra.group [0, 1] fused_away [1]
  // CHECK-NEXT: terra.read
  // CHECK-NEXT: terra.exp
  // CHECK-NEXT: terra.write
  // CHECK-NEXT: terra.read
  // CHECK-NEXT: terra.neg
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<8xf32>
    %b = terra.exp %a : (tensor<8xf32>) -> tensor<8xf32>
    terra.write %b, %1 offset 0 strides [1] : tensor<8xf32>
  }
  terra.group [1] {
    %a = terra.read %1 offset 0 strides [1] : tensor<8xf32>
    %b = terra.neg %a : (tensor<8xf32>) -> tensor<8xf32>
    terra.write %b, %2 offset 0 strides [1] : tensor<8xf32>
  }
}

// -----

// An extern that needs the first result stands between.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 death 3
  %2 = terra.slot 2 death 3
  %3 = terra.slot 3
  // CHECK: terra.group [0] {
  // CHECK: terra.extern
  // CHECK: terra.group [2] {
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<8xf32>
    %b = terra.exp %a : (tensor<8xf32>) -> tensor<8xf32>
    terra.write %b, %1 offset 0 strides [1] : tensor<8xf32>
  }
  terra.extern "aten::cumsum" event 1 reads(%1) writes(%2)
  terra.group [2] {
    %a = terra.read %1 offset 0 strides [1] : tensor<8xf32>
    %c = terra.read %2 offset 0 strides [1] : tensor<8xf32>
    %b = terra.add %a, %c : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
    terra.write %b, %3 offset 0 strides [1] : tensor<8xf32>
  }
}

// -----

// Two ways of reducing do not share loops.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 death 2
  %2 = terra.slot 2
  // CHECK: terra.group [0] {
  // CHECK: terra.group [1] {
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [4, 1] : tensor<8x4xf32>
    %b = terra.softmax %a {dim = 1} : (tensor<8x4xf32>) -> tensor<8x4xf32>
    terra.write %b, %1 offset 0 strides [4, 1] : tensor<8x4xf32>
  }
  terra.group [1] {
    %a = terra.read %1 offset 0 strides [4, 1] : tensor<8x4xf32>
    %b = terra.sum %a {dims = array<i64: 0>} : (tensor<8x4xf32>) -> tensor<1x4xf32>
    terra.write %b, %2 offset 0 strides [4, 1] : tensor<1x4xf32>
  }
}

// -----

// Reshaped rows and work on what a reduction left join; three groups become one at the last place.
// CHECK-LABEL: terra.segment
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 death 1
  %2 = terra.slot 2 death 2
  %3 = terra.slot 3 external
  // CHECK: terra.group [0, 1, 2] fused_away [1, 2]
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [8, 4, 1] : tensor<3x2x4xf32>
    %b = terra.exp %a : (tensor<3x2x4xf32>) -> tensor<3x2x4xf32>
    terra.write %b, %1 offset 0 strides [8, 4, 1] : tensor<3x2x4xf32>
  }
  terra.group [1] {
    %a = terra.read %1 offset 0 strides [4, 1] : tensor<6x4xf32>
    %b = terra.sum %a {dims = array<i64: 0>} : (tensor<6x4xf32>) -> tensor<1x4xf32>
    terra.write %b, %2 offset 0 strides [4, 1] : tensor<1x4xf32>
  }
  terra.group [2] {
    %a = terra.read %3 offset 0 strides [1] : tensor<4xf32>
    %b = terra.read %2 offset 0 strides [1] : tensor<4xf32>
    %c = terra.add %a, %b : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    terra.write %c, %3 offset 0 strides [1] : tensor<4xf32>
  }
}
