// SPDX-License-Identifier: GPL-2.0-only
/*
 * Huge pages: one by a write, the huge zero page by a read and a write to it,
 * then a partial MADV_DONTNEED, mprotect and munmap, and a fork.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define RW (PROT_READ | PROT_WRITE)

int main(void)
{
	char *raw = mmap(NULL, 9 * HUGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *area = (char *)(((unsigned long)raw + HUGE - 1) & ~(HUGE - 1));
	volatile char *look = area;
	unsigned int sum = 0;
	unsigned long i;
	int child;

	if (raw == MAP_FAILED)
		return 1;
	madvise(raw, 9 * HUGE, MADV_HUGEPAGE);
	area[0] = 1;
	area[HUGE + 5 * PAGE] = 1;
	sum += (unsigned char)look[2 * HUGE];
	sum += (unsigned char)look[3 * HUGE];
	area[3 * HUGE + PAGE] = 1;
	area[4 * HUGE] = 1;
	area[5 * HUGE] = 1;
	area[6 * HUGE] = 1;
	madvise(area + 4 * HUGE + 8 * PAGE, 16 * PAGE, MADV_DONTNEED);
	mprotect(area + 5 * HUGE, 32 * PAGE, PROT_READ);
	munmap(area + 6 * HUGE + HUGE / 2, HUGE / 4);
	for (i = 0; i < 4; i++)
		area[4 * HUGE + (9 + i) * PAGE] = 1;
	child = fork();
	if (child == 0) {
		area[HUGE + 7 * PAGE] = 2;
		for (i = 0; i < 8; i++)
			area[4 * HUGE + i * PAGE] = 2;
		sum += (unsigned char)look[2 * HUGE + 9 * PAGE];
		_exit(sum == 1);
	}
	waitpid(child, NULL, 0);
	area[9 * PAGE] = 3;
	return sum == 1;
}
