// SPDX-License-Identifier: GPL-2.0-only
/* Something small to compile while the compiler is recorded. */
#include <stdio.h>

struct node {
	struct node *next;
	int value;
};

static int sum(const struct node *node)
{
	int total = 0;

	for (; node; node = node->next)
		total += node->value * node->value;
	return total;
}

int main(void)
{
	struct node c = { NULL, 3 }, b = { &c, 2 }, a = { &b, 1 };

	printf("%d\n", sum(&a));
	return 0;
}
