// RUN: terra-opt %s -split-input-file -verify-diagnostics

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    // expected-error @+1 {{has 1 strides for a tensor of rank 2}}
    %a = terra.read %0 offset 0 strides [1] : tensor<2x3xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [3, 1] : tensor<2x3xf32>
    // expected-error @+1 {{writes elements that share memory}}
    terra.write %a, %0 offset 0 strides [0, 1] : tensor<2x3xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<3xf32>
    %b = terra.read %0 offset 0 strides [1] : tensor<3xf64>
    // expected-error @+1 {{operands must have one element type, found 'f32' and 'f64'}}
    %c = terra.add %a, %b : (tensor<3xf32>, tensor<3xf64>) -> tensor<3xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<3xf32>
    // expected-error @+1 {{is a predicate: its result must have element type i1}}
    %c = terra.lt %a, %a : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [1] : tensor<3xf32>
    %b = terra.read %0 offset 0 strides [1] : tensor<4xf32>
    // expected-error @+1 {{operand 'tensor<4xf32>' does not broadcast to the result 'tensor<3xf32>'}}
    %c = terra.mul %a, %b : (tensor<3xf32>, tensor<4xf32>) -> tensor<3xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [3, 1] : tensor<2x3xf32>
    // expected-error @+1 {{result must be 'tensor<2x1xf32>'}}
    %b = terra.sum %a {dims = array<i64: 1>} : (tensor<2x3xf32>) -> tensor<2xf32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [3, 1] : tensor<2x3xf32>
    // expected-error @+1 {{dim is out of range for rank 2}}
    %b = terra.softmax %a {dim = 2} : (tensor<2x3xf32>) -> tensor<2x3xf32>
  }
}

// -----

terra.segment {
  // expected-error @+1 {{events must be ascending}}
  terra.group [4, 2] {
  }
}

// -----

terra.segment {
  terra.group [0] {
    // expected-error @+1 {{result must be f64 or i64}}
    %f = terra.feed 0 : tensor<f32>
  }
}

// -----

terra.segment {
  %0 = terra.slot 0 external
  terra.group [0] {
    %a = terra.read %0 offset 0 strides [3, 1] : tensor<2x3xf32>
    // expected-error @+1 {{must keep the element type and the number of elements}}
    %b = terra.reshape %a : (tensor<2x3xf32>) -> tensor<5xf32>
  }
}
