// RUN: terra-opt %s -split-input-file -terra-kernel-stage -terra-lowering-stage | FileCheck %s
// RUN: terra-opt %s -split-input-file -terra-kernel-stage -terra-lowering-stage -terra-llvm-stage | FileCheck %s --check-prefix=LLVM

// CHECK: terra.launch @event0_0(%0, %1, %2) extent 6 grain {{[0-9]+}} views [{offset = 0 : i64, size = 4 : i64, slot = 0 : i64}
// CHECK: func.func private @event0_0_body(%{{.*}}: !llvm.ptr {llvm.noalias}
// CHECK: scf.for
// CHECK: scf.for {{.*}} iter_args
// CHECK: arith.addf {{.*}} fastmath<reassoc,contract>
// CHECK: func.func @event0_0(
// CHECK: call @event0_0_body
// LLVM: llvm.func @event0_0(
// LLVM-NOT: scf.
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1 external
  %2 = terra.slot 2
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [32, 1] : tensor<6x32xf32>
    %b = terra.read %1 offset 0 strides [1] : tensor<32xf32>
    %e = terra.mul %a, %b : (tensor<6x32xf32>, tensor<32xf32>) -> tensor<6x32xf32>
    %r = terra.sum %e {dims = array<i64: 1>} : (tensor<6x32xf32>) -> tensor<6x1xf32>
    terra.write %r, %2 offset 0 strides [1, 1] : tensor<6x1xf32>
  }
}

// -----

// The second pass over a long row asks for the next row.
// CHECK: func.func private @event0_0_body
// CHECK: scf.for
// CHECK: scf.for
// CHECK-NOT: llvm.intr.prefetch
// CHECK: arith.addf {{.*}} fastmath<reassoc,contract>
// CHECK: llvm.intr.prefetch
// CHECK: arith.addf {{.*}} fastmath<reassoc,contract>
// CHECK-NOT: llvm.intr.prefetch
// CHECK: func.func @event0_0(
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [8192, 1] : tensor<6x8192xf32>
    %s = terra.sum %a {dims = array<i64: 1>} : (tensor<6x8192xf32>) -> tensor<6x1xf32>
    %d = terra.sub %a, %s : (tensor<6x8192xf32>, tensor<6x1xf32>) -> tensor<6x8192xf32>
    %q = terra.mul %d, %d : (tensor<6x8192xf32>, tensor<6x8192xf32>) -> tensor<6x8192xf32>
    %r = terra.sum %q {dims = array<i64: 1>} : (tensor<6x8192xf32>) -> tensor<6x1xf32>
    terra.write %r, %1 offset 0 strides [1, 1] : tensor<6x1xf32>
  }
}

// -----

// Memory that is contiguous along the outer loop is copied in tiles.
// CHECK: terra.launch @event0_0(%0, %1) extent 9 grain
// CHECK: func.func private @event0_0_body
// CHECK: llvm.alloca %{{.*}} x f32 {alignment = 64
// CHECK-COUNT-6: scf.for
terra.segment {
  %0 = terra.slot 0 external
  %1 = terra.slot 1
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [9600, 1, 96] : tensor<3x96x100xf32>
    %b = terra.neg %a : (tensor<3x96x100xf32>) -> tensor<3x96x100xf32>
    terra.write %b, %1 offset 0 strides [9600, 100, 1] : tensor<3x96x100xf32>
  }
}
