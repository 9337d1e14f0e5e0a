<?php

$GLOBALS['files']['templates/foot.php'] = '@RELEASE@';
