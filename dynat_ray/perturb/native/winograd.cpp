// Winograd's algorithm F(4 x 4, 3 x 3), for convolutions of 3 x 3 and their gradients; winograd.py
// says when and why. Images lie in memory as (B, H, W, C); C and K are multiples of 16.

#include "convolution.h"
#include "weight_gradient.h"

// `bias` may be null.
#define FOR_FORMAT(name, Format)                                                                  \
  void transform_kernels_##name(const float* numbers, int64_t filter, int64_t channel,            \
                                int64_t row, int64_t column, void* to, int64_t channels,          \
                                int64_t filters, int threads) {                                   \
    transform_kernels<Format>({numbers, filter, channel, row, column},                            \
                              static_cast<Format::Number*>(to), channels, filters, threads);      \
  }                                                                                               \
  void convolve_##name(const void* images, const void* kernels, const float* bias, void* outputs, \
                       int64_t samples, int64_t height, int64_t width, int64_t channels,          \
                       int64_t filters, int threads) {                                            \
    Convolution<Format>(static_cast<const Format::Number*>(images),                               \
                        static_cast<const Format::Number*>(kernels), bias,                        \
                        static_cast<Format::Number*>(outputs), {samples, height, width},          \
                        channels, filters)                                                        \
        .run(threads);                                                                            \
  }                                                                                               \
  void weight_gradient_##name(const void* images, const void* upstream, float* gradient,          \
                              int64_t samples, int64_t height, int64_t width, int64_t channels,   \
                              int64_t filters, int threads) {                                     \
    WeightGradient<Format>(static_cast<const Format::Number*>(images),                            \
                           static_cast<const Format::Number*>(upstream), gradient,                \
                           {samples, height, width}, channels, filters)                           \
        .run(threads);                                                                            \
  }

extern "C" {
FOR_FORMAT(float32, Float32)
#ifdef __AVX512BF16__
FOR_FORMAT(bfloat16, BFloat16)
#endif
}
