<?php

declare(strict_types=1);

namespace Shop;

/** A message of Messenger's. */
final class Message
{
    public function __construct(public string $id, public int $milliseconds, public string $how)
    {
    }
}
