// RUN: terra-opt %s -split-input-file -terra-kernel-stage | FileCheck %s
// RUN: terra-opt %s -split-input-file -terra-kernel-stage -terra-lowering-stage | FileCheck %s --check-prefix=LOWERED

// Column sums are taken along with the rows, by tasks; a second kernel adds the tasks' sums and does what follows.
// CHECK: %[[S:.*]] = terra.scratch 4608
// CHECK: terra.kernel domain [4096, 96] reduced [1] tasks 12
// CHECK: %[[A:.*]] = terra.read
// CHECK-NOT: terra.read %0
// CHECK: terra.write
// CHECK: terra.accumulate %[[A]], %[[S]] offset 0 : tensor<4096x96xf32>
// CHECK: terra.kernel domain [12, 96] reduced [0]
// CHECK: terra.read %[[S]] offset 0 strides [96, 96, 1] : tensor<12x1x96xf32>
// CHECK: terra.sum
// CHECK: terra.neg
// CHECK: terra.write
// LOWERED: terra.launch @event0_0(%0, %1) extent 12 {{.*}} scratch {{[0-9]+}} {{.*}}scratch = 0 : i64
// LOWERED: terra.launch @event0_1(%2) extent {{.*}}scratch = 0 : i64
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  %2 = terra.slot 2
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [96, 1] : tensor<4096x96xf32>
    %r = terra.sum %a {dims = array<i64: 1>} : (tensor<4096x96xf32>) -> tensor<4096x1xf32>
    %m = terra.mul %a, %r : (tensor<4096x96xf32>, tensor<4096x1xf32>) -> tensor<4096x96xf32>
    %s = terra.sum %a {dims = array<i64: 0>} : (tensor<4096x96xf32>) -> tensor<1x96xf32>
    %n = terra.neg %s : (tensor<1x96xf32>) -> tensor<1x96xf32>
    terra.write %m, %1 offset 0 strides [96, 1] : tensor<4096x96xf32>
    terra.write %n, %2 offset 0 strides [96, 1] : tensor<1x96xf32>
  }
}

// -----

// What has one result is reduced in parts.
// CHECK: terra.scratch 128
// CHECK: terra.kernel domain [1000000] reduced [0] tasks 30
// CHECK: terra.max
// CHECK: terra.write {{.*}} strides [1] : tensor<1xf32>
// CHECK: terra.kernel domain [30] reduced [0]
// CHECK: terra.max
// LOWERED: terra.launch @event0_0(%0) extent 30
// LOWERED: terra.launch @event0_1(%1) extent 1
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<1000000xf32>
    %r = terra.max %a {dims = array<i64: 0>} : (tensor<1000000xf32>) -> tensor<1xf32>
    terra.write %r, %1 offset 0 strides [1] : tensor<1xf32>
  }
}

// -----

// Small ones, and those with enough results, stay whole.
// CHECK-NOT: tasks
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  %2 = terra.slot 2
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1000, 1] : tensor<1000x1000xf32>
    %r = terra.sum %a {dims = array<i64: 1>} : (tensor<1000x1000xf32>) -> tensor<1000x1xf32>
    terra.write %r, %1 offset 0 strides [1, 1] : tensor<1000x1xf32>
  }
  terra.group [1] {
    %a = terra.read %0 offset 0 strides [1] : tensor<1000xf32>
    %r = terra.sum %a {dims = array<i64: 0>} : (tensor<1000xf32>) -> tensor<1xf32>
    terra.write %r, %2 offset 0 strides [1] : tensor<1xf32>
  }
}
