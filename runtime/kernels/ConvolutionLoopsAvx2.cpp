#define TERRA_LANES 8
#include "runtime/kernels/ConvolutionLoops.inc"

namespace terra::runtime {
extern const ConvolutionLoops convolutionLoopsAvx2;
const ConvolutionLoops convolutionLoopsAvx2{TERRA_LANES, 6, 3, 4, &correlate, &multiply};
} // namespace terra::runtime
