// Winograd's algorithm F(4 x 4, 3 x 3), for convolutions of 3 x 3 and their gradients; winograd.py
// says when and why. Images lie in memory as (B, H, W, C); C and K are multiples of 16.

#include "convolution.h"
#include "weight_gradient.h"

// `bias` may be null.
#define FOR_FORMAT(name, Format, Products)                                                        \
  void transform_kernels_##name(const float* numbers, int64_t filter, int64_t channel,            \
                                int64_t row, int64_t column, void* to, int64_t channels,          \
                                int64_t filters, int threads) {                                   \
    transform_kernels<Products>({numbers, filter, channel, row, column},                          \
                                static_cast<Products::Factor*>(to), channels, filters, threads);  \
  }                                                                                               \
  void convolve_##name(const void* images, const void* kernels, const float* bias, void* outputs, \
                       int64_t samples, int64_t height, int64_t width, int64_t channels,          \
                       int64_t filters, int threads) {                                            \
    Convolution<Format, Products>(static_cast<const Format::Number*>(images),                     \
                                  static_cast<const Products::Factor*>(kernels), bias,            \
                                  static_cast<Format::Number*>(outputs),                          \
                                  {samples, height, width}, channels, filters)                    \
        .run(threads);                                                                            \
  }                                                                                               \
  void weight_gradient_##name(const void* images, const void* upstream, float* gradient,          \
                              int64_t samples, int64_t height, int64_t width, int64_t channels,   \
                              int64_t filters, int threads) {                                     \
    WeightGradient<Format, Products>(static_cast<const Format::Number*>(images),                  \
                                     static_cast<const Format::Number*>(upstream), gradient,      \
                                     {samples, height, width}, channels, filters)                 \
        .run(threads);                                                                            \
  }

extern "C" {
// Intel's processors take two to four times as long for it as AMD's; float32 is faster there, though
// an instruction multiplies half as many.
int multiplies_bfloat16_fast() { return __builtin_cpu_is("amd") != 0; }

FOR_FORMAT(float32, Float32, Float32Products)
#ifdef __AVX512BF16__
FOR_FORMAT(bfloat16, BFloat16, BFloat16Products)
FOR_FORMAT(bfloat16_by_float32, BFloat16, Float32Products)
#endif
}
